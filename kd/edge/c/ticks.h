/* What the programs that count have in common: SysTick and its turns, and words for the host.
 * Included once by count.c and by layers.c; kd/edge/emulate.py reads the lines they write. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kdsweep_student.h"
#include "vectors.h"

#define SYST ((volatile uint32_t *)0xE000E010) /* control, reload, current */
#define LOOPS 3000000 /* of `known`: more than a turn of SysTick, so that turns are checked, too */

static volatile uint32_t turns;
static volatile uint32_t loops[2] = {1, 1 + LOOPS};

static void host(int operation, const void *argument) {
    register int r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void initialise_monitor_handles(void) {}

void exit(int status) {
    host(0x18, status ? (void *)0 : (void *)0x20026); /* SYS_EXIT */
    for (;;) {
    }
}

/* five instructions, which emulate.py takes off */
__attribute__((naked)) void systick(void) {
    __asm volatile(
        ".syntax unified\n"
        "ldr r0, =turns\n"
        "ldr r1, [r0]\n"
        "adds r1, #1\n"
        "str r1, [r0]\n"
        "bx lr\n"
        ".ltorg");
}

static void write_words(const char *name, const void *words, int count) {
    char text[10];
    host(4, name); /* SYS_WRITE0 */
    for (int i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, (const char *)words + 4 * i, 4);
        text[0] = ' ';
        for (int d = 0; d < 8; d++) text[1 + d] = "0123456789abcdef"[word >> (28 - 4 * d) & 15];
        text[9] = 0;
        host(4, text);
    }
    host(4, "\n");
}

/* ticks since SysTick started, without those of whole turns; *turn: how many of those */
__attribute__((noinline)) static uint32_t now(uint32_t *turn) {
    uint32_t current;
    do {
        *turn = turns;
        current = SYST[2];
    } while (*turn != turns);
    return -current & 0xFFFFFF;
}

/* exactly 2 n + a constant */
static void known(uint32_t n) {
    __asm volatile(
        ".syntax unified\n"
        "1: subs %0, #1\n"
        "bne 1b"
        : "+l"(n)
        :
        : "cc");
}

#define COUNT(into, statement)                           \
    do {                                                 \
        uint32_t from, to, before = now(&from), after;   \
        __asm volatile("" ::: "memory");                 \
        statement;                                       \
        __asm volatile("" ::: "memory");                 \
        after = now(&to);                                \
        (into)[0] = ((to - from) << 24) + after - before; \
        (into)[1] = to - from;                           \
    } while (0)

/* start SysTick with the processor's clock and its interrupt */
static void start_ticks(void) {
    SYST[1] = 0xFFFFFF;
    SYST[2] = 0;
    SYST[0] = 7;
}

/* what a count of nothing is, and two of a loop whose length is known */
static void count_known(uint32_t nothing[2], uint32_t loop[2][2]) {
    COUNT(nothing, );
    for (int i = 0; i < 2; i++) COUNT(loop[i], known(loops[i]));
}
