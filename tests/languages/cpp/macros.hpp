LIB_NAMESPACE_BEGIN
namespace detail
{

// forward declare
template<typename T> class iterator_proxy;

/*!
@brief an iterator with a class scope under macros
*/
template<typename T>
class iterator_impl // NOLINT
{
    LIB_DISABLE_COPY(iterator_impl)

    friend T;

  LIB_PRIVATE_UNLESS_TESTED:
    LIB_CONSTEXPR iterator_impl(T* start) : at(start) {}
    LIB_CONSTEXPR20 ~iterator_impl() LIB_NOEXCEPT { }

    /// @brief set the end
    LIB_DEPRECATED_FOR(3.1.0, end())
    LIB_NODISCARD
    bool set_end() noexcept LIB_LOCKS(mutex_)
    {
        LIB_TRY
        {
            return at == 1;
        }
        LIB_CATCH(...) {}
    }

    LIB_INLINE auto get() const -> T* { return at; }
    if_t<LIB_ALIGN(4)> padding;
  public Q_SLOTS:
    void reset() { at = nullptr; }
  signals:
    void changed(int value);

  private:
    T* at GUARDED_BY(mutex_);
};

template <typename T, LIB_ENABLE_IF(!is_same<T, int>::value)>
LIB_API void write(T value) {
    if LIB_CONSTEXPR (sizeof(T) > 1) return;
    Q_FOREACH(a, b) {
        put(a);
    }
}

T* lib_nonnull Tree::append(T* lib_nonnull node, const T& _Nullable) LIB_UNLOCK(mutex)
    LIB_NO_ANALYSIS {
    return node;
}

constexpr Tree::operator double() const { return 1; }

LIB_TYPE_CONSTANT(const int*, pointer);

class LIB_API LIB_FINAL Buffer final : public Base {
  public:
    Buffer(int n) : size(n) {}
};

#if LIB_WINDOWS
inline void open(wchar_t *name) {
#else
inline void open(char *name) {
#endif
    check(name, type&);
}

}  // namespace detail
LIB_NAMESPACE_END
