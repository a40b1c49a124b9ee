(contract_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(library_declaration name: (_) @name) @class
(struct_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(event_definition name: (_) @name) @alias
(error_declaration name: (_) @name) @alias
(user_defined_type_definition name: (_) @name) @alias

(function_definition name: (_) @name) @prototype
(function_definition name: (_) @name body: (_)) @function
(modifier_definition name: (_) @name) @prototype
(modifier_definition name: (_) @name body: (_)) @function
(constructor_definition "constructor" @name) @method
(fallback_receive_definition ["receive" "fallback"] @name) @method
(fallback_receive_definition "function" @name (#set! name "fallback")) @method
(yul_function_definition . (yul_identifier) @name) @function

(comment) @comment
