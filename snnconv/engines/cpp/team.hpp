// Work shared by threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace snnconv {

// Threads to work with. `parallel` is GOMP_parallel of the OpenMP runtime that the caller computes with, so that its
// threads, still awake from the last call, do this work, too, and no others compete with them; null starts threads of
// our own.
struct Team {
    void (*parallel)(void (*work)(void *), void *argument, unsigned threads, unsigned flags);
    int32_t threads;
};

// Hands out the numbers 0 .. parts - 1, each once, to whoever asks first.
class Parts {
public:
    explicit Parts(int64_t parts) : parts(parts) {}
    bool take(int64_t &part) { return (part = next.fetch_add(1, std::memory_order_relaxed)) < parts; }

private:
    std::atomic<int64_t> next{0};
    const int64_t parts;
};

// Calls `work(parts)` on every thread, which takes parts until there are no more.
template <class Work>
void share(const Team &team, int64_t parts, const Work &work) {
    Parts all(parts);
    const auto each = [&] { work(all); };
    const int32_t threads = static_cast<int32_t>(parts < team.threads ? parts : team.threads);
    if (threads <= 1) return each();
    if (team.parallel) {
        const auto call = [](void *given) { (*static_cast<const decltype(each) *>(given))(); };
        return team.parallel(call, const_cast<void *>(static_cast<const void *>(&each)), static_cast<unsigned>(threads), 0);
    }
    std::vector<std::thread> others;
    try {
        for (int32_t i = 1; i < threads; i++) others.emplace_back(each);
    } catch (const std::system_error &) {
        // no more threads to be had: those there are take all parts
    }
    each();
    for (auto &other : others) other.join();
}

}  // namespace snnconv
