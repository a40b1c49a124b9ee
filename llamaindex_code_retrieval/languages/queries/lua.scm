(function_declaration name: (_) @qualified) @function
(assignment_statement (variable_list . name: (_) @qualified .) (expression_list
  . value: [(function_definition) (binary_expression right: (function_definition))] .)) @function
(assignment_statement
  (variable_list . name: (bracket_index_expression table: (_) @owner field: (string) @name) .)
  (expression_list . value: (function_definition) .)) @function

; tables, and their members that are functions
(assignment_statement (variable_list . name: (_) @qualified .) (expression_list
  . value: [(table_constructor) (function_call arguments: (arguments . (table_constructor)))] .)) @scope
(field name: [(identifier) (string)] @name value: (table_constructor)) @scope
(field name: [(identifier) (string)] @name value: (function_definition)) @method

; tests, commands, routes and other functions in calls after a string
((function_call name: (_) @call arguments: (arguments . (string) @label . (function_definition) .)) @function
  (#not-match? @call "[.:]g?sub$"))
((function_call name: (_) @call arguments: (arguments . (string) @label . (function_definition) . (table_constructor)))
  @function)
((function_call name: (_) @call arguments: (arguments . (string) @label . (function_definition) .)) @module
  (#any-of? @call "describe" "context" "insulate" "expose"))

(comment) @comment
