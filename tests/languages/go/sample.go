package stack

import "fmt"

// Stack is a stack.
type Stack[T any] struct {
	items []T
}

// Push adds x
// on top.
func (s *Stack[T]) Push(x T) {
	s.items = append(s.items, x)
}

func (Stack[T]) Len() int { return 0 }

type (
	// ID names.
	ID int
	Names []string
)

//go:noinline
func New() *Stack[int] {
	f := func() {}
	f()
	return nil
}
