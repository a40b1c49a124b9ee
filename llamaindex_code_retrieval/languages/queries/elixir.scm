; modules, and those whose documentation is inside
((call target: (identifier) @_call (arguments . (_) @qualified) (do_block)) @module
  (#any-of? @_call "defmodule" "defprotocol"))
((call target: (identifier) @_call (arguments . (_) @qualified)
  (do_block (unary_operator operand: (call target: (identifier) @_doc (arguments (string)))) @docstring)) @module
  (#any-of? @_call "defmodule" "defprotocol") (#eq? @_doc "moduledoc"))
((call target: (identifier) @_call
  (arguments . (alias) @name (keywords . (pair key: (keyword) @_for value: (_) @name))) (do_block)) @module
  (#set! join ".") (#eq? @_call "defimpl") (#match? @_for "^for:"))
((call target: (identifier) @_call (arguments . (alias) @name .) (do_block)) @module
  (#eq? @_call "defimpl"))

; a function is all of its adjacent clauses; without a body it is a head or a member of a protocol
((call target: (identifier) @_call (arguments . [
  (identifier) @name
  (call target: (_) @name)
  (binary_operator left: [(identifier) @name (call target: (_) @name)] operator: "when")])) @prototype
  (#set! merge) (#any-of? @_call "def" "defp" "defmacro" "defmacrop" "defn" "defnp"))
((call target: (identifier) @_call (arguments . [
  (identifier) @name
  (call target: (_) @name)
  (binary_operator left: [(identifier) @name (call target: (_) @name)] operator: "when")]) (do_block)) @function
  (#set! merge) (#any-of? @_call "def" "defp" "defmacro" "defmacrop" "defn" "defnp"))
((call target: (identifier) @_call (arguments . [
  (identifier) @name
  (call target: (_) @name)
  (binary_operator left: [(identifier) @name (call target: (_) @name)] operator: "when")] . (keywords))) @function
  (#set! merge) (#any-of? @_call "def" "defp" "defmacro" "defmacrop" "defn" "defnp" "defdelegate"))
((call target: (identifier) @_call (arguments . [
  (identifier) @name
  (call target: (_) @name)
  (binary_operator left: [(identifier) @name (call target: (_) @name)] operator: "when")])) @function
  (#any-of? @_call "defguard" "defguardp"))
((call target: (identifier) @_call (arguments . [
  (binary_operator operator: _ @name)
  (binary_operator left: (binary_operator operator: _ @name) operator: "when")])) @function
  (#set! merge) (#any-of? @_call "def" "defp" "defmacro" "defmacrop") (#match? @name "^[^\\w\\\\]"))
((unary_operator operator: "@" operand: (call target: (identifier) @_call (arguments . [
  (binary_operator left: (call target: (identifier) @name) operator: "::")
  (binary_operator left: (binary_operator left: (call target: (identifier) @name) operator: "::") operator: "when")])))
  @prototype (#any-of? @_call "callback" "macrocallback"))

; tests, routes, schemas and other blocks that a call names
((call target: (identifier) @call (arguments . [(string) (atom)] @label) (do_block)) @function
  (#not-match? @call "^(if|unless|case|for|with|quote|raise|scope|def.*|assert.*|refute.*)$"))
((call target: (identifier) @call (arguments . (string) @label) (do_block)) @module (#eq? @call "describe"))

(comment) @comment
((unary_operator operator: "@" operand: (call target: (identifier) @_name (arguments (_)))) @attribute
  (#set! apart)
  (#any-of? @_name "doc" "spec" "impl" "deprecated" "tag" "since" "dialyzer" "describetag"))
((unary_operator operator: "@" operand: (call target: (identifier) @_name (arguments [(string) (sigil)]))) @comment
  (#set! apart)
  (#any-of? @_name "doc" "typedoc"))
