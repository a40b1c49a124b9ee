(module_definition name: (_) @name) @module
(struct_definition (type_head [
  (identifier) @name
  (parametrized_type_expression . (identifier) @name)
  (binary_expression . [(identifier) @name (parametrized_type_expression . (identifier) @name)])])) @class
(abstract_definition (type_head [
  (identifier) @name
  (parametrized_type_expression . (identifier) @name)
  (binary_expression . [(identifier) @name (parametrized_type_expression . (identifier) @name)])])) @class
(primitive_definition (type_head [(identifier) @name (binary_expression . (identifier) @name)])) @class
((macrocall_expression (macro_identifier (identifier) @_macro)
  (macro_argument_list . [(identifier) @name (typed_expression . (identifier) @name)])) @class
  (#any-of? @_macro "enum" "enumx"))
(const_statement (assignment . (identifier) @name (parametrized_type_expression) .)) @class

; f(x), f(x)::T, f(x) where T, f(x)::T where T
(function_definition (signature [
  (call_expression . [(identifier) (operator) (field_expression)] @qualified)
  (typed_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified))
  (where_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified))
  (where_expression . (typed_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified)))
  (where_expression . (where_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified)))
  ])) @function
(assignment . [
  (call_expression . [(identifier) (operator) (field_expression)] @qualified)
  (typed_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified))
  (where_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified))
  (where_expression . (typed_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified)))
  (where_expression . (where_expression . (call_expression . [(identifier) (operator) (field_expression)] @qualified)))
  ]) @function

; Type{T}(x)
(function_definition (signature [
  (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified))
  (typed_expression . (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified)))
  (where_expression . (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified)))
  ])) @function
(assignment . [
  (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified))
  (typed_expression . (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified)))
  (where_expression . (call_expression . (parametrized_type_expression . [(identifier) (field_expression)] @qualified)))
  ]) @function

; Base.:(==)(x, y)
(function_definition (signature [
  (call_expression . (field_expression (quote_expression [(operator) @name (parenthesized_expression (operator) @name)])))
  (where_expression . (call_expression
    . (field_expression (quote_expression [(operator) @name (parenthesized_expression (operator) @name)]))))
  ])) @function
(assignment . [
  (call_expression . (field_expression (quote_expression [(operator) @name (parenthesized_expression (operator) @name)])))
  (where_expression . (call_expression
    . (field_expression (quote_expression [(operator) @name (parenthesized_expression (operator) @name)]))))
  ]) @function

; (x::Type)(y)
(function_definition (signature [
  (call_expression . (parenthesized_expression (typed_expression (_) @owner .)))
  (where_expression . (call_expression . (parenthesized_expression (typed_expression (_) @owner .))))])) @function
(assignment . [
  (call_expression . (parenthesized_expression (typed_expression (_) @owner .)))
  (where_expression . (call_expression . (parenthesized_expression (typed_expression (_) @owner .))))]) @function

(function_definition (signature . [(identifier) (field_expression)] @qualified .)) @prototype
(macro_definition (signature (call_expression . (_) @name))) @function
(const_statement (assignment . (identifier) @name [(arrow_function_expression) (function_definition)] .)) @function
((assignment . (identifier) @name [(arrow_function_expression) (function_definition)] .) @function
  (#set! level "module"))

((macrocall_expression (macro_identifier (identifier) @call) (macro_argument_list . (string_literal) @label)) @function
  (#any-of? @call "testset" "testitem" "testsnippet" "testmodule"))
((macrocall_expression (macro_identifier (identifier) @call) (macro_argument_list . (string_literal) @label
  (compound_statement (macrocall_expression (macro_identifier (identifier) @_inner))))) @module
  (#eq? @call "testset") (#eq? @_inner "testset"))

[(line_comment) (block_comment)] @comment
(source_file (string_literal) @comment)
(module_definition (string_literal) @comment)
(struct_definition (string_literal) @comment)
((macrocall_expression (macro_identifier (identifier) @_macro)) @comment (#eq? @_macro "doc"))
