// A shared library that is loaded in this process: the functions it defines, and the slots through which it calls them.
//
// A library that is compiled as position-independent code calls its own exported functions through the procedure
// linkage table: each such function has one word (a slot) in the global offset table, a JUMP_SLOT relocation, that
// holds the address to call. This class finds definitions and slots by exact mangled name. It reads memory and changes
// nothing.
//
// x86-64 and aarch64 Linux. Immutable after construction, so it may be shared between threads. The library must stay
// loaded, which extension modules of Python do.

#ifndef MANTARAY_INTERPOSE_ELF_LIBRARY_H_
#define MANTARAY_INTERPOSE_ELF_LIBRARY_H_

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mantaray::interpose {

class ElfLibrary {
 public:
  // Finds a loaded library by its path.
  //
  // NotFound: no library of this path is loaded. Unimplemented: it lacks a table that is needed, or has it in a form
  // that is not handled here.
  static absl::StatusOr<ElfLibrary> FindLoaded(const std::string& path);

  // Returns the address of a function that the library defines.
  //
  // NotFound: the library does not define a function of this name at all. FailedPrecondition: it defines the function
  // with other argument types only.
  absl::StatusOr<uintptr_t> DefinitionOf(const std::string& mangled) const;

  // Returns the length in bytes of a function's code, counting only the contiguous part at its definition.
  //
  // Errors as DefinitionOf; also FailedPrecondition if the symbol has no size.
  absl::StatusOr<size_t> BytesOf(const std::string& mangled) const;

  // Returns the slot through which the library calls a function.
  //
  // Errors as DefinitionOf; also NotFound if the library has no slot for the function because it calls it directly.
  absl::StatusOr<uintptr_t*> SlotOf(const std::string& mangled) const;

  const std::string& path() const { return path_; }

 private:
  ElfLibrary() = default;

  absl::Status ReadDynamicSection(const Elf64_Dyn* dynamic);
  template <typename T>
  const T* Table(Elf64_Addr address) const;
  std::optional<uint32_t> SymbolOf(absl::string_view mangled) const;
  bool DefinesWithOtherArguments(absl::string_view mangled) const;
  absl::Status WhyMissing(const std::string& mangled) const;

  std::string path_;
  uintptr_t base_ = 0;
  const Elf64_Sym* symbols_ = nullptr;
  const char* strings_ = nullptr;
  const uint32_t* gnu_hash_ = nullptr;
  const Elf64_Rela* jump_slots_ = nullptr;
  size_t jump_slot_count_ = 0;
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_ELF_LIBRARY_H_
