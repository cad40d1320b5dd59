// Recycles the memory of large results on the CPU. New memory costs as much as a gradient of the filters, because the
// system clears each page first. So the memory of a result that has died waits here for the next one. The system can
// still take its pages back whenever it is short of them (MADV_FREE). Each block is a mapping of its own: aligned
// blocks from malloc leave gaps in the heap that nothing else fits into.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fac {

#if defined(MADV_FREE) && defined(MADV_HUGEPAGE)
#define FAC_KEEPS_MEMORY

constexpr size_t kHugePage = 2 << 20;

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

class Memory {
 public:
  static Memory& of_process() {
    static Memory& memory = *new Memory;  // never destroyed: the last results may die after it would be
    return memory;
  }

  // Returns a block of at least so many bytes, or an empty one where memory is short.
  Block take(size_t bytes) {
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock) {  // a fork may have left it locked
      Block* best = nullptr;
      for (Block& block : waiting_)
        if (block.bytes >= bytes && block.bytes <= bytes + bytes / 4 && (!best || block.bytes < best->bytes))
          best = &block;
      if (best) return std::exchange(*best, Block{});
    }
    if (bytes > SIZE_MAX - 2 * kHugePage) return {};
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    Block block = map(bytes);
    if (!block.data) {  // where address space is limited, the blocks that wait count
      release();
      block = map(bytes);
    }
    return block;
  }

  void give(Block block) {
    if (madvise(block.data, block.bytes, MADV_FREE) == 0)
      if (const std::unique_lock lock(mutex_, std::try_to_lock); lock) {
        const auto empty = std::find_if(waiting_.begin(), waiting_.end(), [](const Block& b) { return !b.data; });
        if (empty == waiting_.end()) next_ = (next_ + 1) % waiting_.size();  // free one that waits
        std::swap(block, empty == waiting_.end() ? waiting_[next_] : *empty);
      }
    unmap(block);
  }

  // Gives all blocks that wait back to the system.
  void release() {
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock)
      for (Block& block : waiting_) unmap(std::exchange(block, Block{}));
  }

 private:
  // Maps whole huge pages: one more than asked for, less what lies before and behind.
  static Block map(size_t bytes) {
    void* const mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {};
    const size_t before = -reinterpret_cast<uintptr_t>(mapped) % kHugePage;
    char* const data = static_cast<char*>(mapped) + before;
    if (before) munmap(mapped, before);
    munmap(data + bytes, kHugePage - before);
    madvise(data, bytes, MADV_HUGEPAGE);  // only advice
    return {data, bytes};
  }

  static void unmap(Block block) {
    if (block.data) munmap(block.data, block.bytes);
  }

  std::mutex mutex_;
  std::array<Block, 8> waiting_;
  size_t next_ = 0;
};

#endif

}  // namespace fac
