// Tests of the parts that belong to the operating system: buffers, processes in /proc, and threads.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <system_error>
#include <thread>

#include "mantaray/spill/io_buffers.h"
#include "mantaray/spill/posix_file_system.h"
#include "mantaray/spill/posix_host.h"
#include "mantaray/spill/posix_parallel.h"

namespace mantaray::spill {
namespace {

TEST(IoBuffers, BuffersAreUsedAgainAndTheUnusedGivenBack) {
  PosixFileSystem file_system;
  IoBuffers buffers(&file_system);
  {
    const IoBuffers::Lease first = buffers.Take();
    const IoBuffers::Lease second = buffers.Take();
    ASSERT_NE(first.data(), nullptr);
    EXPECT_NE(first.data(), second.data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data()) % 4096, 0u);
    first.data()[IoBuffers::kBufferBytes - 1] = 'x';
  }
  EXPECT_EQ(buffers.idle_buffers(), 2u);
  buffers.Trim();  // both were in use since the beginning
  EXPECT_EQ(buffers.idle_buffers(), 2u);
  { const IoBuffers::Lease again = buffers.Take(); }
  buffers.Trim();
  EXPECT_EQ(buffers.idle_buffers(), 1u);
  buffers.Trim();
  EXPECT_EQ(buffers.idle_buffers(), 0u);
}

TEST(IoBuffers, LeaseThatOutlivesItsPoolIsStillGood) {
  PosixFileSystem file_system;
  auto buffers = std::make_unique<IoBuffers>(&file_system);
  const IoBuffers::Lease lease = buffers->Take();
  buffers.reset();
  lease.data()[0] = 'x';
  EXPECT_EQ(lease.data()[0], 'x');
}

TEST(PosixHost, ThisProcessIsAliveAndALaterOneWithItsPidIsNot) {
  PosixHost host;
  absl::StatusOr<ProcessId> self = PosixHost::Lookup(getpid());
  ASSERT_TRUE(self.ok());
  EXPECT_TRUE(host.IsAlive(*self));
  self->start_ticks += 1;
  EXPECT_FALSE(host.IsAlive(*self));
}

TEST(PosixHost, OpenFilesOfARayletAreSeenAndARayletThatCannotBeLookedAtIsAnError) {
  struct stat data {};
  const int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(fstat(fd, &data), 0);
  const std::pair<uint64_t, uint64_t> key(data.st_dev, data.st_ino);
  PosixHost host(getpid());
  const absl::StatusOr<OpenFiles> with = host.FilesOfRaylet();
  close(fd);
  const absl::StatusOr<OpenFiles> without = host.FilesOfRaylet();
  ASSERT_TRUE(with.ok() && without.ok()) << with.status() << without.status();
  EXPECT_TRUE(with->contains(key));
  EXPECT_FALSE(without->contains(key));
  EXPECT_FALSE(PosixHost(0).FilesOfRaylet().ok());
  EXPECT_FALSE(PosixHost(INT32_MAX).FilesOfRaylet().ok());
}

TEST(PosixHost, ProcessThatCannotBeLookedAtCountsAsAlive) {
  PosixHost host;
  const ProcessId self = *PosixHost::Lookup(getpid());
  // UBSan opens a pipe at the first call of a virtual method, so the first call comes while descriptors can be had.
  ASSERT_TRUE(host.IsAlive(self));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool alive = host.IsAlive(self);
  const bool other_alive = host.IsAlive({INT32_MAX, 1});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(alive);
  EXPECT_FALSE(other_alive);
}

TEST(HelperThreads, ThreadThatCannotBeCreatedLeavesTheWorkToTheCaller) {
  HelperThreads helper([](std::function<void()>) -> std::thread {
    throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
  });
  int done = 0;
  helper.RunBoth([&] { ++done; }, [&] { ++done; });
  helper.Start([&] { ++done; });
  EXPECT_EQ(done, 3);
}

}  // namespace
}  // namespace mantaray::spill
