(class_declaration name: (_) @name) @class
(object_declaration name: (_) @name) @class
(companion_object name: (_) @name) @class
(type_alias type: (_) @name) @alias
(enum_entry (identifier) @name (class_body)) @scope
(property_declaration (variable_declaration (identifier) @name) (object_literal)) @class

(function_declaration name: (_) @name) @prototype
(function_declaration name: (_) @name (function_body)) @function
(function_declaration [(user_type) (nullable_type) (parenthesized_type)] @owner . name: (_) @name) @prototype
(function_declaration [(user_type) (nullable_type) (parenthesized_type)] @owner . name: (_) @name
  (function_body)) @function
(secondary_constructor "constructor" @name) @method

; properties with code
(property_declaration (variable_declaration (identifier) @name) [(getter (function_body)) (setter (function_body))]) @function
(property_declaration [(user_type) (nullable_type) (parenthesized_type)] @owner
  . (variable_declaration . (identifier) @name) [(getter (function_body)) (setter (function_body))]) @function
(property_declaration (variable_declaration (identifier) @name) [(lambda_literal) (anonymous_function)]) @function

; functions in calls: `get("/orders") { … }`, `tasks.register("build") { … }`, `"adds" { … }`
(call_expression
  (call_expression
    [(identifier) @call (navigation_expression (identifier) @call .)]
    (value_arguments . (value_argument . (string_literal) @label)))
  (annotated_lambda)) @function
(call_expression . (string_literal) @label (annotated_lambda)) @function

[(line_comment) (block_comment)] @comment
; `@Suppress("unused") // …` in a line of its own is parsed as an annotated expression
(annotated_expression (annotation) . (parenthesized_expression) .) @attribute
