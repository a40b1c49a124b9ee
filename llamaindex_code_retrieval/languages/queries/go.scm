(function_declaration name: (_) @name body: (_)) @function
(function_declaration name: (_) @name !body) @prototype
(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @owner))
  name: (_) @name body: (_)) @method
(type_spec name: (_) @name) @class
(type_alias name: (_) @name) @class
(type_spec type: (interface_type (method_elem name: (_) @name) @prototype))

; functions in calls: `t.Run("adds", func(t *testing.T) { … })`
(call_expression function: (_) @call
  arguments: (argument_list . [(interpreted_string_literal) (raw_string_literal)] @label (func_literal))) @function
; functions by the name of the variable: `var Load = func() { … }`, `var Load = sync.OnceFunc(func() { … })`
(source_file (var_declaration (var_spec name: (_) @name value: (expression_list . (func_literal) .)) @function))
(source_file (var_declaration (var_spec_list
  (var_spec name: (_) @name value: (expression_list . (func_literal) .)) @function)))
((var_spec name: (_) @name value: (expression_list .
  (call_expression arguments: (argument_list (func_literal))) @function .)) (#not-eq? @name "_"))
; members of literals: `var root = &cobra.Command{RunE: func() error { … }}`
(var_spec name: (_) @name value: (expression_list .
  [(composite_literal) (unary_expression operand: (composite_literal))] @scope .))
(short_var_declaration left: (expression_list . (identifier) @name .) right: (expression_list .
  [(composite_literal) (unary_expression operand: (composite_literal))] @scope .))
(keyed_element key: (literal_element [(identifier) (interpreted_string_literal)] @name)
  value: (literal_element (func_literal))) @function
(comment) @comment
