(function_statement (function_name) @name) @function
; help inside a function, above its parameters
((function_statement (function_name) @name (comment) @docstring) @function (#match? @docstring "^<#"))
(class_statement . (simple_name) @name) @class
(enum_statement . (simple_name) @name) @class
(class_method_definition (simple_name) @name) @method
; blocks of a command: `Describe "cart" { … }`, `task Build -Depends Clean { … }`
(command command_name: (_) @call command_elements: (command_elements . (command_argument_sep) .
  [(array_literal_expression (unary_expression (string_literal))) (generic_token)] @label
  (array_literal_expression (unary_expression (script_block_expression))))) @function
((comment) @comment (#not-match? @comment "^#\\s*(region|endregion|requires)\\b"))
