(function_declaration name: (_) @name body: (_)) @function
(function_declaration name: (_) @name !body) @prototype
(variable_declaration . (identifier) @name "=" .
  [(struct_declaration) (enum_declaration) (union_declaration) (opaque_declaration) (error_set_declaration)]) @class
; a generic type: `fn List(comptime T: type) type { return struct { … }; }`
(function_declaration name: (_) @name body: (block (expression_statement (return_expression
  [(struct_declaration) (enum_declaration) (union_declaration) (opaque_declaration)])))) @class
(test_declaration "test" @call [(string) (identifier)] @label) @function
(test_declaration "test" @name . (block)) @function
((comment) @comment (#not-match? @comment "^//!"))
