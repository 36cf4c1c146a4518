/* The least firmware that hears a heart rate, for its bytes: never run. */
#include "kdsweep_student.h"

static kds_stream stream;
volatile float sensor[KDS_INPUTS];
volatile kds_rate heard;

void initialise_monitor_handles(void) {}

void exit(int status) {
    (void)status;
    for (;;) {
    }
}

int main(void) {
    kds_start(&stream);
    for (;;) {
        float sample[KDS_INPUTS];
        kds_rate rate;
        for (int c = 0; c < KDS_INPUTS; c++) sample[c] = sensor[c];
        if (kds_push(&stream, sample, &rate)) {
            heard.bpm = rate.bpm;
            heard.sd = rate.sd;
        }
    }
}
