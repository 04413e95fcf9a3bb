// Full memory gets into huge pages with everything in it; memory with holes is left as it is; switches are obeyed.

#include "mantaray/common/collapse_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace mantaray {
namespace {

constexpr size_t kMegabyte = size_t{1} << 20;
constexpr size_t kPageBytes = 4096;

// 16 MB of the test's own, aligned to huge pages by the size of the reservation.
class Memory {
 public:
  static constexpr size_t kBytes = 16 * kMegabyte;

  Memory()
      : reserved_(mmap(nullptr, kBytes + 2 * kMegabyte, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    const auto address = reinterpret_cast<uintptr_t>(reserved_);
    begin_ = static_cast<char*>(reserved_) + (2 * kMegabyte - address % (2 * kMegabyte)) % (2 * kMegabyte);
  }
  ~Memory() { munmap(reserved_, kBytes + 2 * kMegabyte); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Writes its number to each page of which `step` is a divisor.
  void Fill(size_t step) {
    for (size_t page = 0; page < kBytes / kPageBytes; page += step) Number(page) = page + 1;
  }
  uint64_t& Number(size_t page) { return *reinterpret_cast<uint64_t*>(begin_ + page * kPageBytes); }

  // A figure of the mapping, in bytes, as /proc/self/smaps has it.
  size_t Figure(const std::string& name) const {
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    bool is_ours = false;
    while (std::getline(smaps, line)) {
      std::istringstream words(line);
      std::string word;
      words >> word;
      if (const size_t dash = word.find('-'); dash != std::string::npos && word.find(':') == std::string::npos) {
        const uintptr_t begin = std::stoul(word.substr(0, dash), nullptr, 16);
        const uintptr_t end = std::stoul(word.substr(dash + 1), nullptr, 16);
        const auto address = reinterpret_cast<uintptr_t>(begin_);
        is_ours = begin <= address && address < end;
      } else if (is_ours && word == name + ":") {
        size_t kilobytes = 0;
        words >> kilobytes;
        return kilobytes * 1024;
      }
    }
    return 0;
  }

 private:
  void* reserved_;
  char* begin_;
};

bool CanCollapse() { return CollapseIntoHugePages().ok(); }

TEST(CollapsePagesTest, FullMemoryGetsIntoHugePagesAndKeepsItsBytes) {
  if (!CanCollapse()) GTEST_SKIP() << CollapseIntoHugePages().status();
  Memory memory;
  memory.Fill(1);
  const absl::StatusOr<size_t> collapsed = CollapseIntoHugePages();
  ASSERT_TRUE(collapsed.ok()) << collapsed.status();
  EXPECT_GE(*collapsed, Memory::kBytes);
  EXPECT_GE(memory.Figure("AnonHugePages"), Memory::kBytes);
  for (size_t page = 0; page < Memory::kBytes / kPageBytes; ++page) ASSERT_EQ(memory.Number(page), page + 1);
}

TEST(CollapsePagesTest, MemoryWithHolesDoesNotGrow) {
  if (!CanCollapse()) GTEST_SKIP() << CollapseIntoHugePages().status();
  Memory memory;
  memory.Fill(2);
  const size_t before = memory.Figure("Rss");
  // Where the kernel gives huge pages to everybody, there are no holes.
  if (before >= Memory::kBytes) GTEST_SKIP() << "the kernel fills holes by itself";
  ASSERT_TRUE(CollapseIntoHugePages().ok());
  EXPECT_EQ(memory.Figure("Rss"), before);
}

TEST(CollapsePagesTest, NothingMovesWhereHugePagesAreSwitchedOff) {
  const std::string settings = testing::TempDir() + "/collapse_pages_settings";
  ASSERT_EQ(std::system(("mkdir -p " + settings).c_str()), 0);
  const auto write = [&](const std::string& name, const std::string& content) {
    std::ofstream(settings + "/" + name) << content;
  };
  EXPECT_EQ(CollapseIntoHugePages(settings + "/nowhere").status().code(), absl::StatusCode::kFailedPrecondition);
  write("enabled", "always madvise [never]\n");
  write("hpage_pmd_size", "2097152\n");
  EXPECT_EQ(CollapseIntoHugePages(settings).status().code(), absl::StatusCode::kFailedPrecondition);
  write("enabled", "always [madvise] never\n");
  ASSERT_TRUE(HugePageBytes(settings).ok()) << HugePageBytes(settings).status();
  EXPECT_EQ(*HugePageBytes(settings), 2 * kMegabyte);
  // ARM with pages of 64 KiB.
  write("hpage_pmd_size", "536870912\n");
  EXPECT_EQ(HugePageBytes(settings).status().code(), absl::StatusCode::kFailedPrecondition);
  write("hpage_pmd_size", "2097152\n");
  ASSERT_EQ(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  const absl::Status of_process = HugePageBytes(settings).status();
  prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
  EXPECT_EQ(of_process.code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace mantaray
