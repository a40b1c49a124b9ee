#ifndef QUEUE_H
#define QUEUE_H

#ifdef __cplusplus
extern "C" {
#endif

/* A queue, whose name is that of the typedef. */
typedef struct queue_s {
  QUEUE_FIELDS
  int length;
} queue_t, *queue_ptr;

typedef enum {
#define XX(code, _) Q_##code,
  CODES(XX)
#undef XX
  Q_MAX
} code;

typedef union { double d; long l[2]; } number[1];
typedef struct { int x; } *handle;

/* Called for each element. */
typedef int (*visit_cb)(queue_t *queue, void *data);
typedef struct node_s node_t;
typedef unsigned int size32, size64;
typedef DWORD (WINAPI *entry)(void);

union packet {
  struct header { int kind; } head;
  int (*read)(union packet *);
};

/* The larger one. */
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define VERSION 3
#define EACH(q, e)             \
  for (e = first(q); /* all */ \
       e; e = e->next)

/* Makes a queue. */
QUEUE_API queue_t *queue_new(void) QUEUE_NONNULL(1);
extern int queue_length;
int(queue_close)(queue_t *queue);
int queue_push(queue_t *, int), queue_pop(queue_t *);
void (*queue_hook)(int);

#ifdef __cplusplus
}
#endif

#endif
