/* Counts a student's instructions on an emulated Cortex-M, by the ticks of its SysTick, and paints its stack.
 * Writes lines of a name and hexadecimal numbers through semihosting; kd/edge/emulate.py reads them. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kdsweep_student.h"
#include "vectors.h"

#define SYST ((volatile uint32_t *)0xE000E010) /* control, reload, current */
#define PAINT 0xDEADBEEF
#define LOOPS 3000000 /* of `known`: more than a turn of SysTick, so that turns are checked, too */

extern uint32_t end;
static volatile uint32_t turns;
static kds_stream stream;
static volatile uint32_t loops[2] = {1, 1 + LOOPS};
static kds_rate rates[VECTORS];
static float logits[VECTORS][KDS_CLASSES];
static uint32_t network[VECTORS][2], pushes[VECTOR_SIGNAL][2], completes[VECTOR_SIGNAL];

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

int main(void) {
    uint32_t nothing[2], loop[2][2], stack, heard = 0;
    volatile uint32_t *low, *sp;
    kds_rate rate;

    /* before any interrupt: an exception's frame isn't the student's */
    __asm volatile("mov %0, sp" : "=r"(sp));
    for (low = &end; low < sp; low++) *low = PAINT;
    kds_start(&stream);
    for (int i = 0; i < VECTOR_SIGNAL; i++) {
        int completed = kds_push(&stream, vector_signal[i], &rate);
        if (completed && heard < VECTORS) rates[heard] = rate;
        heard += (uint32_t)completed;
    }
    for (low = &end; low < sp && *low == PAINT;) low++;
    stack = (uint32_t)sp - (uint32_t)low;

    SYST[1] = 0xFFFFFF;
    SYST[2] = 0;
    SYST[0] = 7; /* the processor's clock, with interrupt */
    COUNT(nothing, );
    for (int i = 0; i < 2; i++) COUNT(loop[i], known(loops[i]));
    for (int v = 0; v < VECTORS; v++) {
        const float *said;
        COUNT(network[v], said = kds_logits(vector_window[v]));
        memcpy(logits[v], said, sizeof logits[v]);
    }
    kds_start(&stream);
    for (int i = 0; i < VECTOR_SIGNAL; i++)
        COUNT(pushes[i], completes[i] = (uint32_t)kds_push(&stream, vector_signal[i], &rate));

    write_words("stack", &stack, 1);
    write_words("heard", &heard, 1);
    write_words("rates", rates, 2 * VECTORS);
    write_words("logits", logits, VECTORS * KDS_CLASSES);
    write_words("nothing", nothing, 2);
    write_words("loops", (const void *)loops, 2);
    write_words("loop", loop, 4);
    write_words("network", network, 2 * VECTORS);
    write_words("pushes", pushes, 2 * VECTOR_SIGNAL);
    write_words("completes", completes, VECTOR_SIGNAL);
    return 0;
}
