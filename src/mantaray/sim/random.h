// Seeded randomness for simulations: the same seed gives the same numbers with every compiler and on every machine,
// which the distributions of the standard library do not promise.

#ifndef MANTARAY_SIM_RANDOM_H_
#define MANTARAY_SIM_RANDOM_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace mantaray::sim {

// A good 64-bit hash of a value (SplitMix64's finalizer).
constexpr uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// A hash of several values. What is decided from it does not depend on how many numbers were drawn before, so that a
// decision stays the same when a shrinker takes away others.
template <typename... Rest>
constexpr uint64_t Mix(uint64_t first, uint64_t second, Rest... rest) {
  return Mix(Mix(first) ^ second, rest...);
}

// A stream of numbers (xoshiro256**). Not thread-safe; cheap to make one for each purpose.
class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) word = seed = Mix(seed);
  }

  uint64_t Next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // 0 <= result < bound; `bound` is at least 1.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
  }

  // low <= result <= high.
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low) + 1));
  }

  bool Chance(uint32_t permille) { return Below(1000) < permille; }

  // `choices` is not empty.
  template <typename T>
  const T& Pick(const std::vector<T>& choices) {
    return choices[Below(choices.size())];
  }

  template <typename T>
  void Shuffle(std::vector<T>* items) {
    for (size_t left = items->size(); left > 1; --left) std::swap((*items)[left - 1], (*items)[Below(left)]);
  }

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace mantaray::sim

#endif  // MANTARAY_SIM_RANDOM_H_
