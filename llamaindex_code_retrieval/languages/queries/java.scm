(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(annotation_type_declaration name: (_) @name) @class
(enum_constant name: (_) @name body: (_)) @scope

(constructor_declaration name: (_) @name) @method
(compact_constructor_declaration name: (_) @name) @method
(method_declaration name: (_) @name body: (_)) @method
(method_declaration name: (_) @name !body) @prototype
(annotation_type_element_declaration name: (_) @name) @prototype

; functions and anonymous classes in variables and calls: `router.get("/orders", context -> { … })`
(field_declaration declarator: (variable_declarator name: (_) @name value: (lambda_expression body: (block)))) @method
(field_declaration declarator: (variable_declarator name: (_) @name
  value: (object_creation_expression (class_body)))) @class
(local_variable_declaration declarator: (variable_declarator name: (_) @name
  value: (lambda_expression body: (block)))) @function
(local_variable_declaration declarator: (variable_declarator name: (_) @name
  value: (object_creation_expression (class_body)))) @class
(method_invocation name: (_) @call
  arguments: (argument_list . (string_literal) @label (lambda_expression body: (block)))) @function

[(line_comment) (block_comment)] @comment
