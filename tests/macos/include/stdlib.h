/* Declarations of the C standard (section 7.22) that C code in Rust crates needs. Not a part of an SDK. */
#pragma once
#include <stddef.h>
_Noreturn void abort(void);
