; inherits: ecma
(abstract_class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(type_alias_declaration name: (_) @name) @class
(internal_module name: (_) @qualified) @scope
(module name: (_) @qualified) @scope
(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @method
