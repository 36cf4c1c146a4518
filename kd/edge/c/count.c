/* Counts a student's instructions on an emulated Cortex-M, by the ticks of its SysTick, and paints its stack.
 * Writes lines of a name and hexadecimal numbers through semihosting; kd/edge/emulate.py reads them. */
#include "ticks.h"

#define PAINT 0xDEADBEEF

extern uint32_t end;
static kds_stream stream;
static kds_rate rates[VECTORS];
static float logits[VECTORS][KDS_CLASSES];
static uint32_t network[VECTORS][2], decode[VECTORS][2], pushes[VECTOR_SIGNAL][2], completes[VECTOR_SIGNAL];

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

    start_ticks();
    count_known(nothing, loop);
    for (int v = 0; v < VECTORS; v++) {
        const float *said;
        COUNT(network[v], said = kds_logits(vector_window[v]));
        memcpy(logits[v], said, sizeof logits[v]);
        COUNT(decode[v], rate = kds_decode(logits[v]));
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
    write_words("decode", decode, 2 * VECTORS);
    write_words("pushes", pushes, 2 * VECTOR_SIGNAL);
    write_words("completes", completes, VECTOR_SIGNAL);
    return 0;
}
