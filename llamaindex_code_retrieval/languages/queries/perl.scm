(subroutine_declaration_statement name: (_) @qualified) @function
(subroutine_declaration_statement name: (_) @qualified !body) @prototype
(method_declaration_statement name: (_) @name) @function

; a package goes on to the next one, unless it has a block
((package_statement name: (_) @qualified) @class (#set! through))
((class_statement name: (_) @qualified) @class (#set! through))

; functions that are values of variables, symbols and members of hashes
((assignment_expression left: (variable_declaration variable: (scalar (varname) @name))
  right: (anonymous_subroutine_expression)) @function (#set! level "module"))
((assignment_expression left: (glob (varname) @qualified) right: (anonymous_subroutine_expression)) @function
  (#match? @qualified "^[A-Za-z_]"))
(assignment_expression left: (variable_declaration variable: [(hash (varname) @name) (scalar (varname) @name)])
  right: [(parenthesized_expression) (anonymous_hash_expression)]) @scope
([(parenthesized_expression (list_expression [(autoquoted_bareword) (string_literal)] @name .
    (anonymous_subroutine_expression) @method))
  (anonymous_hash_expression (list_expression [(autoquoted_bareword) (string_literal)] @name .
    (anonymous_subroutine_expression) @method))]
  (#not-match? @name "^(default|isa|where|via|message)$"))

; method modifiers, tests, routes and other functions in calls after a name
(ambiguous_function_call_expression function: (_) @call
  arguments: (list_expression . [(string_literal) (interpolated_string_literal) (autoquoted_bareword)] @label .
    (anonymous_subroutine_expression))) @function
(function_call_expression function: (_) @call
  arguments: (list_expression . [(string_literal) (interpolated_string_literal) (autoquoted_bareword)] @label .
    (anonymous_subroutine_expression))) @function
(method_call_expression method: (_) @call
  arguments: (list_expression . [(string_literal) (interpolated_string_literal) (autoquoted_bareword)] @label .
    (anonymous_subroutine_expression))) @function

(comment) @comment
((pod) @comment (#set! apart))
