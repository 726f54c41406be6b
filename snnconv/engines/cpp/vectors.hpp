// Vectors of GCC and Clang, with the operators of plain numbers; unaligned loads and stores.
#pragma once

namespace snnconv {
namespace {

template <class T, int Number>
struct VectorOf {
    typedef T type __attribute__((vector_size(sizeof(T) * Number)));
};
template <class T, int Number>
using Vector = typename VectorOf<T, Number>::type;

template <class V, class T>
inline V load(const T *from) {
    V values;
    std::memcpy(&values, from, sizeof(V));
    return values;
}

template <class V, class T>
inline void store(T *to, const V &values) {
    std::memcpy(to, &values, sizeof(V));
}

// A number in every place.
template <class V, class T>
inline V fill(T value) {
    return value - V{};
}

}  // namespace
}  // namespace snnconv
