; inherits: ecma
(field_definition property: (_) @name value: [
  (arrow_function) (function_expression)
  (call_expression arguments: (arguments [(arrow_function) (function_expression)]))
]) @method
(field_definition property: (_) @name value: (object)) @scope
