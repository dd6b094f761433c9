// SPDX-License-Identifier: Apache-2.0
#ifndef MARTLET_ALLOCATION_COUNTER_H
#define MARTLET_ALLOCATION_COUNTER_H

#include <stddef.h>
#include <stdint.h>

/// How often memory was allocated since the program began.
uint64_t counted_allocations(void);

#endif
