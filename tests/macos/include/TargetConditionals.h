/* The conditions of macOS, from the descriptions in Apple's header of that name. Not a part of an SDK. */
#pragma once
#define TARGET_OS_MAC 1
#define TARGET_OS_OSX 1
#define TARGET_OS_IPHONE 0
