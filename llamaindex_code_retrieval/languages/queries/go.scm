(function_declaration name: (_) @name body: (_)) @function
(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @owner))
  name: (_) @name body: (_)) @method
(type_spec name: (_) @name) @class
(type_alias name: (_) @name) @class
(var_spec name: (_) @name value: (expression_list . (func_literal) .)) @function
(comment) @comment
