/* The macro of the C standard (section 7.2) with NDEBUG. Not a part of an SDK. */
#undef assert
#define assert(condition) ((void)0)
