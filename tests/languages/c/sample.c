/* Licence. */

#include <stdio.h>

struct list {
    int head;
};

typedef struct {
    int x;
} point;

int declared(int x);

#ifdef DEBUG
/* Prints it. */
static char *show(struct list *l)
{
    return 0;
}
#endif

enum kind { A, B };

int (*pick(int a))(int)
{
    return 0;
}
