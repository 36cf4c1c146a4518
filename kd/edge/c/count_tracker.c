/* Counts the tracker's instructions on an emulated Cortex-M, window by window; kd/edge/c_tracker.py reads it. */
#include "ticks.h"

#include "kdsweep_tracker.h"
#include "tracker_vectors.h"

static kds_tracker tracker;
static kds_estimate said[TRACKER_VECTORS];
static uint32_t updates[TRACKER_VECTORS][2];

int main(void) {
    uint32_t nothing[2], loop[2][2];

    start_ticks();
    count_known(nothing, loop);
    kds_tracker_reset(&tracker);
    for (int v = 0; v < TRACKER_VECTORS; v++) {
        if (v == TRACKER_RESET) kds_tracker_reset(&tracker);
        COUNT(updates[v], said[v] = kds_tracker_update(&tracker, tracker_logits[v]));
    }
    write_words("said", said, sizeof said / 4);
    write_words("updates", updates, 2 * TRACKER_VECTORS);
    write_words("nothing", nothing, 2);
    write_words("loop", loop, 4);
    write_words("loops", (const void *)loops, 2);
    return 0;
}
