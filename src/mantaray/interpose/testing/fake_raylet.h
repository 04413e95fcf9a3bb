// Loads testing/fake_raylet.cc, the small library that stands for Ray's, and calls its functions for tests.

#ifndef MANTARAY_INTERPOSE_TESTING_FAKE_RAYLET_H_
#define MANTARAY_INTERPOSE_TESTING_FAKE_RAYLET_H_

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "mantaray/common/ids.h"

namespace mantaray::interpose {

class FakeRaylet {
 public:
  FakeRaylet() {
    // The variable names the data of a test. A program that `bazel run` starts runs in that directory already.
    const char* data = std::getenv("TEST_SRCDIR");
    path_ =
        absl::StrCat(data == nullptr ? "." : absl::StrCat(data, "/mantaray"), "/src/mantaray/interpose/fake_raylet.so");
    library_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) ADD_FAILURE() << dlerror();
    counter = Function<void* (*)()>("fake_counter")();
    own = Function<Play>("fake_own");
    drop = Function<Play>("fake_drop");
    free_value = Function<Play>("fake_free");
    borrow_ = Function<void (*)(void*, uint64_t, const char*)>("fake_borrow");
    notice_ = Function<void (*)(void*, uint64_t, const char*, bool, const char*)>("fake_notice");
    contain = Function<void (*)(void*, uint64_t, uint64_t, bool)>("fake_contain");
    lineage = Function<void (*)(void*, uint64_t, int)>("fake_lineage");
    use = Function<void (*)(void*, uint64_t, int)>("fake_use");
    look_up_owner = Function<bool (*)(void*, uint64_t)>("fake_owner_is_known");
    size_ = Function<int (*)(void*)>("fake_size");
    questions_ = Function<int (*)(void*)>("fake_questions");
  }

  using Play = void (*)(void*, uint64_t);

  void Borrow(uint64_t object, char worker) { borrow_(counter, object, Name(worker).c_str()); }
  void Failed(uint64_t object, char worker) { notice_(counter, object, Name(worker).c_str(), true, nullptr); }
  void Removed(uint64_t object, char worker) { notice_(counter, object, Name(worker).c_str(), false, nullptr); }
  void RemovedNaming(uint64_t object, char worker, char other) {
    notice_(counter, object, Name(worker).c_str(), false, Name(other).c_str());
  }
  // The number of entries in the counter's table, and how often it asked a borrower to report its release.
  int size() const { return size_(counter); }
  int questions() const { return questions_(counter); }
  const std::string& path() const { return path_; }

  // The id of the object with a number.
  static ObjectId Object(uint64_t number) {
    std::string bytes(ObjectId::kBytes, '\0');
    std::memcpy(bytes.data(), &number, sizeof(number));
    return *ObjectId::FromBinary(bytes);
  }

  void* counter = nullptr;
  Play own = nullptr;
  Play drop = nullptr;
  Play free_value = nullptr;
  bool (*look_up_owner)(void*, uint64_t) = nullptr;
  void (*contain)(void*, uint64_t outer, uint64_t inner, bool made) = nullptr;
  void (*lineage)(void*, uint64_t object, int change) = nullptr;
  void (*use)(void*, uint64_t object, int change) = nullptr;

 private:
  template <typename F>
  F Function(const char* name) {
    return reinterpret_cast<F>(dlsym(library_, name));
  }
  static std::string Name(char worker) { return std::string(WorkerId::kBytes, worker); }

  std::string path_;
  void* library_;
  void (*borrow_)(void*, uint64_t, const char*);
  void (*notice_)(void*, uint64_t, const char*, bool, const char*);
  int (*size_)(void*);
  int (*questions_)(void*);
};

}  // namespace mantaray::interpose

#endif  // MANTARAY_INTERPOSE_TESTING_FAKE_RAYLET_H_
