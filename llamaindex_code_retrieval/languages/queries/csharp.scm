(class_declaration name: (_) @name) @class
(struct_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(constructor_declaration name: (_) @name) @method
(local_function_statement name: (_) @name) @function

(method_declaration name: (_) @name body: (_)) @method
(destructor_declaration name: (_) @name (#set! prefix "~")) @method
(operator_declaration operator: _ @name (#set! prefix "operator ")) @method
(comment) @comment
