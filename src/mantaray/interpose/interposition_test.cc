// Finding slots and definitions in a loaded library, exchanging them, and every reason to refuse.

#include "mantaray/interpose/interposition.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "mantaray/interpose/elf_library.h"
#include "mantaray/interpose/ray_abi.h"
#include "mantaray/interpose/slot.h"
#include "mantaray/interpose/testing/fake_raylet.h"

namespace mantaray::interpose {
namespace {

using ::testing::HasSubstr;

FakeRaylet& Fake() {
  static auto* const fake = new FakeRaylet;
  return *fake;
}

ElfLibrary Library() { return *ElfLibrary::FindLoaded(Fake().path()); }

std::string ProtectionOf(const void* address) {
  FILE* maps = std::fopen("/proc/self/maps", "re");
  char line[4096];
  std::string found;
  while (std::fgets(line, sizeof(line), maps) != nullptr) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char access[5] = {};
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, access) != 3) continue;
    const auto at = reinterpret_cast<uintptr_t>(address);
    if (at >= begin && at < end) found = access;
  }
  std::fclose(maps);
  return found;
}

std::atomic<int> g_calls{0};
std::atomic<uintptr_t> g_original{0};

bool Counted(const RayCounter* counter, const RayObjectId* id, RayAddress* owner) {
  ++g_calls;
  return reinterpret_cast<GetOwnerInternal>(g_original.load())(counter, id, owner);
}

TEST(ElfLibraryTest, LibraryThatIsNotLoadedIsRefused) {
  const auto library = ElfLibrary::FindLoaded("/nowhere/_raylet.so");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(library.status().message()), HasSubstr("/nowhere/_raylet.so is not loaded"));
}

TEST(ElfLibraryTest, FunctionThatIsNotThereIsRefused) {
  const auto definition = Library().DefinitionOf("_ZN3ray4core16ReferenceCounter6NoSuchEv");
  EXPECT_EQ(definition.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(definition.status().message()), HasSubstr("does not define"));
}

TEST(ElfLibraryTest, FunctionWithOtherArgumentsIsRefusedAsThat) {
  const auto slot = Library().SlotOf("_ZNK3ray4core16ReferenceCounter16GetOwnerInternalERKNS_8ObjectIDEi");
  EXPECT_EQ(slot.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(slot.status().message()), HasSubstr("with other argument types"));
}

TEST(ElfLibraryTest, FunctionThatTheLibraryDoesNotCallHasNoSlot) {
  const auto slot = Library().SlotOf("_ZNK3ray8ObjectID11ObjectIndexEv");
  EXPECT_EQ(slot.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(slot.status().message()), HasSubstr("has no slot for"));
}

TEST(ElfLibraryTest, FunctionOfUnknownLengthIsRefused) {
  const auto length = Library().BytesOf("fake_without_size");
  EXPECT_EQ(length.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(length.status().message()), HasSubstr("does not say how long fake_without_size is"));
}

TEST(SlotTest, PageThatTheKernelDoesNotListIsRefused) {
  auto* const nowhere = reinterpret_cast<uintptr_t*>(sizeof(uintptr_t));  // NOLINT
  const absl::Status status = ExchangeSlot(nowhere, 1, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "the kernel does not list the page of the slot");
}

TEST(SlotTest, PageThatMustNotBecomeWritableIsRefusedAndLeftAsItIs) {
  // A shared mapping of a file that is open for reading only.
  const std::string path = ::testing::TempDir() + "/read_only_slot";
  FILE* file = std::fopen(path.c_str(), "we");
  const uintptr_t value = 7;
  ASSERT_EQ(std::fwrite(&value, sizeof(value), 1, file), 1U);
  std::fclose(file);
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  void* page = mmap(nullptr, sizeof(value), PROT_READ, MAP_SHARED, descriptor, 0);
  close(descriptor);
  ASSERT_NE(page, MAP_FAILED);
  const absl::Status status = ExchangeSlot(static_cast<uintptr_t*>(page), value, 8);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the page of the slot cannot be made writable"));
  EXPECT_EQ(ReadSlot(static_cast<uintptr_t*>(page)), value);
  munmap(page, sizeof(value));
}

TEST(InterpositionTest, CallsGoThroughTheReplacementUntilItIsTakenBack) {
  auto interposition = *Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  g_original = interposition.original();
  g_calls = 0;
  ASSERT_TRUE(interposition.Attach(reinterpret_cast<uintptr_t>(&Counted)).ok());
  Fake().own(Fake().counter, 1);
  EXPECT_TRUE(Fake().look_up_owner(Fake().counter, 1));
  EXPECT_EQ(g_calls, 1);
  ASSERT_TRUE(interposition.Detach().ok());
  EXPECT_TRUE(Fake().look_up_owner(Fake().counter, 1));
  EXPECT_EQ(g_calls, 1);
  EXPECT_TRUE(interposition.Detach().ok());
  Fake().drop(Fake().counter, 1);
}

TEST(InterpositionTest, PageIsProtectedAsBefore) {
  const uintptr_t* slot = *Library().SlotOf(kGetOwnerInternal.mangled);
  const std::string before = ProtectionOf(slot);
  auto interposition = *Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  g_original = interposition.original();
  ASSERT_TRUE(interposition.Attach(reinterpret_cast<uintptr_t>(&Counted)).ok());
  EXPECT_EQ(ProtectionOf(slot), before);
  ASSERT_TRUE(interposition.Detach().ok());
  EXPECT_EQ(ProtectionOf(slot), before);
  EXPECT_EQ(before[1], '-');
}

TEST(InterpositionTest, SlotThatSomebodyElseHasChangedIsLeftAlone) {
  auto first = *Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  g_original = first.original();
  ASSERT_TRUE(first.Attach(reinterpret_cast<uintptr_t>(&Counted)).ok());
  const auto second = Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("somebody else has changed the slot"));

  // Somebody else changes the slot after the first replacement, which therefore cannot be taken back.
  uintptr_t* slot = *Library().SlotOf(kGetOwnerInternal.mangled);
  ASSERT_TRUE(ExchangeSlot(slot, reinterpret_cast<uintptr_t>(&Counted), first.original() + 1).ok());
  EXPECT_EQ(first.Detach().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadSlot(slot), first.original() + 1);
  ASSERT_TRUE(ExchangeSlot(slot, first.original() + 1, reinterpret_cast<uintptr_t>(&Counted)).ok());
  EXPECT_TRUE(first.Detach().ok());
}

TEST(InterpositionTest, ForkedChildHasItAndTakesItBackForItselfAlone) {
  auto interposition = *Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  g_original = interposition.original();
  ASSERT_TRUE(interposition.Attach(reinterpret_cast<uintptr_t>(&Counted)).ok());
  g_calls = 0;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Fake().look_up_owner(Fake().counter, 3);
    const bool called = g_calls == 1;
    const bool taken_back = interposition.Detach().ok();
    Fake().look_up_owner(Fake().counter, 3);
    _exit(called && taken_back && g_calls == 1 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  // The child changed only its own copy of the slot.
  Fake().look_up_owner(Fake().counter, 3);
  EXPECT_EQ(g_calls, 1);
  EXPECT_TRUE(interposition.Detach().ok());
}

TEST(InterpositionTest, ThreadsMayCallWhileItIsAttachedAndTakenBack) {
  Fake().own(Fake().counter, 2);
  std::atomic<bool> stop{false};
  std::atomic<int> unknown{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) unknown += Fake().look_up_owner(Fake().counter, 2) ? 0 : 1;
    });
  }
  auto interposition = *Interposition::Prepare(Library(), kGetOwnerInternal.mangled);
  g_original = interposition.original();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(interposition.Attach(reinterpret_cast<uintptr_t>(&Counted)).ok());
    ASSERT_TRUE(interposition.Detach().ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(unknown, 0);
  Fake().drop(Fake().counter, 2);
}

TEST(RayAbiTest, LayoutThatIsAsExpectedPassesTheSelfCheck) {
  const auto ray = RayFunctions::Resolve(Library());
  ASSERT_TRUE(ray.ok()) << ray.status();
  EXPECT_TRUE(ray->SelfCheck().ok()) << ray->SelfCheck();
}

TEST(RayAbiTest, IdInAnotherPlaceFailsTheSelfCheck) {
  RayFunctions ray = *RayFunctions::Resolve(Library());
  ray.object_index = [](const RayObjectId* id) -> uint64_t { return id->bytes[0]; };
  EXPECT_EQ(ray.SelfCheck().message(), "self-check: ObjectID is not laid out as expected");
}

TEST(RayAbiTest, TableThatFindsNothingFailsTheSelfCheck) {
  RayFunctions ray = *RayFunctions::Resolve(Library());
  ray.find = [](const RayTable*, const RayObjectId*) { return RayTablePosition{nullptr, nullptr}; };
  EXPECT_EQ(ray.SelfCheck().message(), "self-check: an iterator of the reference table is not laid out as expected");
}

TEST(RayAbiTest, EntryThatBeginsWithSomethingElseFailsTheSelfCheck) {
  RayFunctions ray = *RayFunctions::Resolve(Library());
  static const RayObjectId kOther = RayObjectId::Of(ObjectId::FromNumber(7));
  ray.find = [](const RayTable*, const RayObjectId* id) {
    return id->Read().IsNil() ? RayTablePosition{id, &kOther} : RayTablePosition{nullptr, nullptr};
  };
  EXPECT_EQ(ray.SelfCheck().message(), "self-check: an entry of the reference table is not laid out as expected");
}

TEST(RayAbiTest, VectorThatKeepsItsIdsElsewhereFailsTheSelfCheck) {
  RayFunctions ray = *RayFunctions::Resolve(Library());
  // The vector is made once for each process. The guard's own tests make one that is as expected.
  ray.push_back = [](RayObjectIds*, const RayObjectId*) {};
  EXPECT_EQ(ray.CheckObjectIds().message(), "self-check: a std::vector of ObjectID is not laid out as expected");
}

TEST(RayAbiTest, AddressWithFieldsElsewhereFailsTheSelfCheck) {
  RayFunctions ray = *RayFunctions::Resolve(Library());
  ray.address_bytes = [](const void*) -> size_t { return 0; };
  EXPECT_EQ(ray.SelfCheck().message(), "self-check: rpc::Address is not laid out as expected");
}

}  // namespace
}  // namespace mantaray::interpose
