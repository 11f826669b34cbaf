// Contents of the simulated memory: a file mapped into the process, so an image is loaded and dumped in bulk.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "svdpi.h"

namespace {

unsigned char *contents = nullptr;
uint64_t size = 0;

}  // namespace

extern "C" {

// End the simulation with a message, at once and in every kind of build.
void rowmesh_fatal(const char *message) {
    std::fflush(stdout);
    std::fprintf(stderr, "%%Fatal: %s\n", message);
    std::fflush(stderr);
    std::_Exit(3);
}

// Map the file: its length is the size of the memory, and the memory's contents are in it at every moment.
void rowmesh_memory_open(const char *path) {
    const int file = open(path, O_RDWR);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0 || status.st_size <= 0) {
        rowmesh_fatal("cannot open the memory's file");
    }
    void *const mapped = mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
        rowmesh_fatal("cannot map the memory's file");
    }
    close(file);
    contents = static_cast<unsigned char *>(mapped);
    size = static_cast<uint64_t>(status.st_size);
}

// Read the aligned bus word that holds an address; nonzero, and zeros, where there is no memory.
int rowmesh_memory_read(unsigned long long address, int bytes, svBitVecVal *data) {
    const uint64_t first = address & ~static_cast<uint64_t>(bytes - 1);
    if (size < static_cast<uint64_t>(bytes) || first > size - bytes) {
        std::memset(data, 0, bytes);
        return 1;
    }
    std::memcpy(data, contents + first, bytes);
    return 0;
}

// Write the strobed bytes of the aligned bus word that holds an address; nonzero where there is no memory.
int rowmesh_memory_write(unsigned long long address, int bytes, const svBitVecVal *data, const svBitVecVal *strobe) {
    const uint64_t first = address & ~static_cast<uint64_t>(bytes - 1);
    if (size < static_cast<uint64_t>(bytes) || first > size - bytes) return 1;
    const unsigned char *const source = reinterpret_cast<const unsigned char *>(data);
    for (int i = 0; i < bytes; ++i) {
        if ((strobe[i / 32] >> (i % 32)) & 1) contents[first + i] = source[i];
    }
    return 0;
}

}  // extern "C"
