// What the headers of a newer GCC expect of the C and C++ libraries, for those of 2018 (glibc 2.28
// and libstdc++ of GCC 8, manylinux_2_28): the linker takes these, so that the extension runs there
// too.
#include <new>
#include <sstream>

#if defined(__GLIBC__) && defined(__GLIBCXX__)

// Whether libstdc++ may count references without atomic instructions: torch has threads.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}

namespace std {

void __throw_bad_array_new_length() { throw bad_array_new_length(); }

// Their default constructors and str() as members of C++20.
template class basic_stringbuf<char>;
template class basic_ostringstream<char>;
template class basic_stringstream<char>;

}  // namespace std

#if defined(USE_CUDA) && defined(__x86_64__)
// By which torch's headers look for what a torch may lack; a newer glibc has it under a new version
// too.
__asm__(".symver fasti3d_dlsym, dlsym@GLIBC_2.2.5");
extern "C" void* fasti3d_dlsym(void* library, const char* name);
extern "C" __attribute__((visibility("hidden"))) void* dlsym(void* library, const char* name) {
  return fasti3d_dlsym(library, name);
}
#endif

#endif
