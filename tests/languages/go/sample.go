//go:build linux

package stack

/*
#include <stdio.h>
*/
import "C"

import "fmt"

// Stack is a stack.
type Stack[T any] struct {
	items []T
	inner struct{ n int }
}

// Push adds x
// on top.
func (s *Stack[T]) Push(x T) {
	s.items = append(s.items, x)
}

func (Stack[T]) Len() int { return 0 }

func (m Map[K, V]) Get(key K) V { return m[key] }

type (
	// ID names.
	ID int
	Names []string
)

type Alias = Stack[int]

// Reader reads.
type Reader interface {
	fmt.Stringer
	// Read fills p.
	Read(p []byte) (n int, err error)
	Close() error
}

type HandlerFunc func(w Writer)

//go:noinline
func New() *Stack[int] {
	f := func() {}
	f()
	return nil
}

// Sum is written in assembly.
func Sum(xs []float64) float64

// Now can be replaced by tests.
var Now = func() int64 {
	return 0
}

var (
	limit = 3
	retry = func(n int) bool { return n < limit }
)

var load = sync.OnceValue(func() *Config {
	return parse()
})

// rootCmd runs.
var rootCmd = &cobra.Command{
	Use: "tool",
	// RunE starts the tool.
	RunE: func(cmd *cobra.Command, args []string) error {
		return run(args)
	},
}

func newServeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve",
		PreRun: func(cmd *cobra.Command, args []string) {
			prepare()
		},
	}
	return cmd
}

var funcs = template.FuncMap{
	"upper": func(s string) string { return strings.ToUpper(s) },
}

func try(l interface{ Addr() net.Addr }) error { return nil }

func TestStack(t *testing.T) {
	tests := []struct {
		name string
		make func() *Stack[int]
	}{
		{name: "empty", make: func() *Stack[int] { return New() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.make()
		})
	}
	t.Run("pushes one", func(t *testing.T) {
		New().Push(1)
	})
}

var _ = Describe("Stack", func() {
	It(`pops`, func() {
		New().Pop()
	})
})

func routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, r *http.Request) {
		list(w)
	})
	go func() {
		wait()
	}()
}

func pointers() {
	use(new(int64(1)), new("a"), new(-2), new(a.b+1), new(time.Now()), new(Point{1}))
	use(new(int), new([]int), new(struct{ n int }), new(func() int), new(map[string]int))
}
