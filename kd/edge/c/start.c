/* From reset to main on an emulated Cortex-M; printf and exit go through semihosting. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t data_source, data_start, data_end, bss_start, bss_end, stack_top;
void initialise_monitor_handles(void);
void systick(void) __attribute__((weak));
int main(void);

static void reset(void) {
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* CPACR: let the floating-point unit work */
    __asm volatile("dsb\nisb");
#endif
    for (uint32_t *from = &data_source, *to = &data_start; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
    initialise_monitor_handles();
    exit(main());
}

static void fault(void) {
    exit(99);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top,    (void *)reset, (void *)fault, (void *)fault,        (void *)fault,
    (void *)fault, (void *)fault, [15] = (void *)systick};
