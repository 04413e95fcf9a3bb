// See elf_library.h.

#include "mantaray/interpose/elf_library.h"

#include <limits.h>
#include <link.h>
#include <stdlib.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace mantaray::interpose {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kJumpSlot = R_X86_64_JUMP_SLOT;
#elif defined(__aarch64__)
constexpr uint32_t kJumpSlot = R_AARCH64_JUMP_SLOT;
#else
#error "the relocation type of a slot is known for x86-64 and aarch64 only"
#endif

std::string RealPath(const std::string& path) {
  char resolved[PATH_MAX];
  return realpath(path.c_str(), resolved) == nullptr ? path : std::string(resolved);
}

struct Search {
  std::string path;
  uintptr_t base = 0;
  const Elf64_Dyn* dynamic = nullptr;
};

int Visit(dl_phdr_info* info, size_t, void* data) {
  auto* search = static_cast<Search*>(data);
  if (info->dlpi_name == nullptr || RealPath(info->dlpi_name) != search->path) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_DYNAMIC) continue;
    search->base = info->dlpi_addr;
    // The loader names memory by number.
    search->dynamic = reinterpret_cast<const Elf64_Dyn*>(info->dlpi_addr + header.p_vaddr);  // NOLINT
  }
  return 1;
}

uint32_t GnuHash(absl::string_view name) {
  uint32_t hash = 5381;
  for (const char c : name) hash = hash * 33 + static_cast<unsigned char>(c);
  return hash;
}

// The parts of a DT_GNU_HASH table; see the description of `.gnu.hash` in the documentation of the GNU linker.
struct GnuHashTable {
  explicit GnuHashTable(const uint32_t* words)
      : bucket_count(words[0]),
        first_symbol(words[1]),
        bloom_words(words[2]),
        bloom_shift(words[3]),
        bloom(reinterpret_cast<const uint64_t*>(words + 4)),
        buckets(reinterpret_cast<const uint32_t*>(bloom + bloom_words)),
        chains(buckets + bucket_count) {}

  bool MayHold(uint32_t hash) const {
    const uint64_t word = bloom[(hash / 64) % bloom_words];
    const uint64_t mask = uint64_t{1} << (hash % 64) | uint64_t{1} << ((hash >> bloom_shift) % 64);
    return (word & mask) == mask;
  }

  uint32_t bucket_count;
  uint32_t first_symbol;
  uint32_t bloom_words;
  uint32_t bloom_shift;
  const uint64_t* bloom;
  const uint32_t* buckets;
  const uint32_t* chains;
};

// The mangled name up to the argument types: "_ZN3ray4core4Name" and the closing "E" of "_ZN3ray4core4NameERKi".
absl::string_view WithoutArguments(absl::string_view mangled) {
  size_t at = absl::StartsWith(mangled, "_ZNK") ? 4 : 3;
  if (!absl::StartsWith(mangled, "_ZN")) return mangled;
  while (at < mangled.size() && absl::ascii_isdigit(mangled[at])) {
    size_t length = 0;
    while (at < mangled.size() && absl::ascii_isdigit(mangled[at])) {
      length = length * 10 + static_cast<size_t>(mangled[at++] - '0');
    }
    at += length;
  }
  return mangled.substr(0, std::min(at + 1, mangled.size()));
}

}  // namespace

absl::StatusOr<ElfLibrary> ElfLibrary::FindLoaded(const std::string& path) {
  Search search{RealPath(path)};
  dl_iterate_phdr(Visit, &search);
  if (search.dynamic == nullptr) {
    return absl::NotFoundError(absl::StrCat(path, " is not loaded in this process"));
  }
  ElfLibrary library;
  library.path_ = search.path;
  library.base_ = search.base;
  absl::Status status = library.ReadDynamicSection(search.dynamic);
  if (!status.ok()) return status;
  return library;
}

template <typename T>
const T* ElfLibrary::Table(Elf64_Addr address) const {
  // glibc has turned the offsets in the dynamic section into addresses; another loader may not have.
  return reinterpret_cast<const T*>(address < base_ ? base_ + address : address);  // NOLINT
}

absl::Status ElfLibrary::ReadDynamicSection(const Elf64_Dyn* dynamic) {
  size_t slot_bytes = 0;
  bool has_addends = false;
  for (const Elf64_Dyn* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
    switch (entry->d_tag) {
      case DT_SYMTAB:
        symbols_ = Table<Elf64_Sym>(entry->d_un.d_ptr);
        break;
      case DT_STRTAB:
        strings_ = Table<char>(entry->d_un.d_ptr);
        break;
      case DT_GNU_HASH:
        gnu_hash_ = Table<uint32_t>(entry->d_un.d_ptr);
        break;
      case DT_JMPREL:
        jump_slots_ = Table<Elf64_Rela>(entry->d_un.d_ptr);
        break;
      case DT_PLTRELSZ:
        slot_bytes = entry->d_un.d_val;
        break;
      case DT_PLTREL:
        has_addends = entry->d_un.d_val == DT_RELA;
        break;
      default:
        break;
    }
  }
  jump_slot_count_ = slot_bytes / sizeof(Elf64_Rela);
  if (symbols_ == nullptr || strings_ == nullptr || gnu_hash_ == nullptr) {
    return absl::UnimplementedError(absl::StrCat(path_, " has no symbol table with a GNU hash table"));
  }
  if (jump_slots_ == nullptr || !has_addends) {
    return absl::UnimplementedError(absl::StrCat(path_, " has no table of JUMP_SLOT relocations with addends"));
  }
  return absl::OkStatus();
}

std::optional<uint32_t> ElfLibrary::SymbolOf(absl::string_view mangled) const {
  const GnuHashTable table(gnu_hash_);
  const uint32_t hash = GnuHash(mangled);
  if (!table.MayHold(hash)) return std::nullopt;
  uint32_t symbol = table.buckets[hash % table.bucket_count];
  if (symbol < table.first_symbol) return std::nullopt;
  for (;; ++symbol) {
    const uint32_t chained = table.chains[symbol - table.first_symbol];
    // The lowest bit marks the end of a chain.
    if ((chained | 1) == (hash | 1) && mangled == strings_ + symbols_[symbol].st_name) return symbol;
    if ((chained & 1) != 0) return std::nullopt;
  }
}

bool ElfLibrary::DefinesWithOtherArguments(absl::string_view mangled) const {
  const GnuHashTable table(gnu_hash_);
  const absl::string_view wanted = WithoutArguments(mangled);
  for (uint32_t bucket = 0; bucket < table.bucket_count; ++bucket) {
    uint32_t symbol = table.buckets[bucket];
    if (symbol < table.first_symbol) continue;
    do {
      if (absl::StartsWith(strings_ + symbols_[symbol].st_name, wanted)) return true;
    } while ((table.chains[symbol++ - table.first_symbol] & 1) == 0);
  }
  return false;
}

absl::Status ElfLibrary::WhyMissing(const std::string& mangled) const {
  if (DefinesWithOtherArguments(mangled)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " defines ", WithoutArguments(mangled), " with other argument types than ", mangled));
  }
  return absl::NotFoundError(absl::StrCat(path_, " does not define ", mangled));
}

absl::StatusOr<uintptr_t> ElfLibrary::DefinitionOf(const std::string& mangled) const {
  const std::optional<uint32_t> symbol = SymbolOf(mangled);
  if (!symbol || symbols_[*symbol].st_shndx == SHN_UNDEF) return WhyMissing(mangled);
  return base_ + symbols_[*symbol].st_value;
}

absl::StatusOr<size_t> ElfLibrary::BytesOf(const std::string& mangled) const {
  const std::optional<uint32_t> symbol = SymbolOf(mangled);
  if (!symbol || symbols_[*symbol].st_shndx == SHN_UNDEF) return WhyMissing(mangled);
  if (symbols_[*symbol].st_size == 0) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " does not say how long ", mangled, " is"));
  }
  return symbols_[*symbol].st_size;
}

absl::StatusOr<uintptr_t*> ElfLibrary::SlotOf(const std::string& mangled) const {
  const std::optional<uint32_t> symbol = SymbolOf(mangled);
  if (!symbol) return WhyMissing(mangled);
  const auto* end = jump_slots_ + jump_slot_count_;
  const auto* found = std::find_if(jump_slots_, end, [&](const Elf64_Rela& relocation) {
    return ELF64_R_SYM(relocation.r_info) == *symbol && ELF64_R_TYPE(relocation.r_info) == kJumpSlot;
  });
  if (found == end) {
    return absl::NotFoundError(absl::StrCat(path_, " has no slot for ", mangled, ": it calls the function directly"));
  }
  return reinterpret_cast<uintptr_t*>(base_ + found->r_offset);  // NOLINT
}

}  // namespace mantaray::interpose
