; inherits: c

(class_interface . (identifier) @name) @class
(class_implementation . (identifier) @name) @module ; its functions are no methods
(protocol_declaration . (identifier) @name) @class
(method_declaration [(identifier) @name (method_parameter ":" @name)]+) @prototype
(method_definition [(identifier) @name (method_parameter ":" @name)]+ (compound_statement)) @method

; functions in calls: `describe(@"cart", ^{ … })`
(call_expression function: (identifier) @call
  arguments: (argument_list . (string_literal) @label (block_literal))) @function
