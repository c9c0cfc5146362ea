/* Counts calls of malloc, calloc and realloc. Preloaded into a Python that takes all its memory from there. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static unsigned long count;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t number, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

unsigned long
allocations(void)
{
    return count;
}

void *
malloc(size_t size)
{
    count++;
    return __libc_malloc(size);
}

void *
calloc(size_t number, size_t size)
{
    count++;
    return __libc_calloc(number, size);
}

void *
realloc(void *memory, size_t size)
{
    count++;
    return __libc_realloc(memory, size);
}
