; inherits: ecma
(abstract_class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(type_alias_declaration name: (_) @name) @class
(internal_module name: (_) @qualified) @scope
(module name: [(identifier) (nested_identifier)] @qualified) @scope
(module name: (string) @name) @scope
(public_field_definition name: (_) @name value: [
  (arrow_function) (function_expression)
  (call_expression arguments: (arguments [(arrow_function) (function_expression)]))
]) @method
(public_field_definition name: (_) @name value: (object)) @scope
; signatures: overloads are one with what implements them
(function_signature name: (_) @name (#set! merge)) @prototype
(method_signature name: (_) @name (#set! merge)) @prototype
(abstract_method_signature name: (_) @name (#set! merge)) @prototype
; values with a type
(variable_declarator name: (identifier) @name value: [
  (as_expression [(arrow_function) (parenthesized_expression [(arrow_function) (function_expression)])])
  (satisfies_expression [(arrow_function) (parenthesized_expression [(arrow_function) (function_expression)])])
]) @function
(variable_declarator name: (identifier) @name value: [
  (as_expression (object [(method_definition) (pair value: [(arrow_function) (function_expression)])]))
  (satisfies_expression (object [(method_definition) (pair value: [(arrow_function) (function_expression)])]))
]) @class
