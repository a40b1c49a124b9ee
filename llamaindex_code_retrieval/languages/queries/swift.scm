(class_declaration name: (type_identifier) @name) @class
(class_declaration declaration_kind: "extension" name: (_) @owner) @class
(protocol_declaration name: (_) @name) @class
(typealias_declaration name: (type_identifier) @name) @alias

(function_declaration "func" . name: _ @name) @function
(protocol_function_declaration "func" . name: _ @name) @prototype
(init_declaration "init" @name) @method
(protocol_body (init_declaration "init" @name) @prototype)
(deinit_declaration "deinit" @name) @method
(subscript_declaration "subscript" @name) @method
(macro_declaration . (simple_identifier) @name) @function
(macro_declaration (modifiers) . (simple_identifier) @name) @function

; properties with code, and functions in variables
(property_declaration name: (pattern bound_identifier: (_) @name) computed_value: (_)) @function
(property_declaration name: (pattern bound_identifier: (_) @name) (willset_didset_block)) @function
(property_declaration name: (pattern bound_identifier: (_) @name)
  value: [(lambda_literal) (call_expression . (lambda_literal))]) @function

; functions in calls: `it("adds") { … }`, `app.get("orders") { … }`
(call_expression
  [(simple_identifier) @call (navigation_expression suffix: (navigation_suffix suffix: (simple_identifier) @call))]
  (call_suffix (value_arguments . (value_argument value: (line_string_literal) @label)) (lambda_literal))) @function

[(comment) (multiline_comment)] @comment
