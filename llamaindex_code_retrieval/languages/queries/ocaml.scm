; inherits: ocaml_interface
; functions of modules; a `let` in an expression is local
(compilation_unit (value_definition (let_binding
  pattern: [(value_name) @name (parenthesized_operator (_) @name)] (parameter)) @function))
(structure (value_definition (let_binding
  pattern: [(value_name) @name (parenthesized_operator (_) @name)] (parameter)) @function))
(compilation_unit (value_definition (let_binding pattern: (value_name) @name body: [
  (fun_expression) (function_expression) (let_expression body: [(fun_expression) (function_expression)])]) @function))
(structure (value_definition (let_binding pattern: (value_name) @name body: [
  (fun_expression) (function_expression) (let_expression body: [(fun_expression) (function_expression)])]) @function))
; `let%test "adds" = …`, `test_case "adds" `Quick (fun () -> …)`
(value_definition (attribute_id) @call (let_binding pattern: (string) @label)) @function
(application_expression function: (value_path) @call . argument: (string) @label
  argument: (parenthesized_expression [(fun_expression) (function_expression)])) @function
