BOOL
WINAPI
opened(HANDLE *handle)
{
    return TRUE;
}

static int __init start(void) { return 0; }

TEST_IMPL(queue_push) {
  int i;
  EACH(queue, i) {
    push(i);
  }
  return 0;
}

SYSCALL_DEFINE3(read, unsigned int, fd, char *, buffer, size_t, count)
{
    return 0;
}

int poll(int fd) {
#ifdef HAVE_EPOLL
  if (epoll(fd)) {
#else
  if (select(fd)) {
#endif
    return 1;
  }
  return fd == 2
#ifdef HAVE_URING
      || fd == 3
#endif
      ;
}

static const char *names[] = {
  "a",
#ifdef B
  "b",
#endif
};

#if 0
int unbalanced(void) {
#endif

int declared(int x);
void queue_close(void);

/* Closes it. */
void queue_close(void) {}

struct ops ops = {.open = opened};
EXPORT_SYMBOL(ops);
