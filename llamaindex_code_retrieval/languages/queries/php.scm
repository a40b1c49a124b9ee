; a function in a call that has a string as the first argument: `Route::get('/orders', function () {…})`
((_
  [function: (_) name: (_)] @call
  arguments: (arguments
    .
    (argument [(string) (encapsed_string)] @label)
    (argument [(anonymous_function) (arrow_function)])) @function)
  (#set! level "module")
  (#not-match? @call "^(array_|preg_|call_user_func|iterator_|spl_|u[ak]?sort)"))
((function_call_expression
  function: (name) @call
  arguments: (arguments
    .
    (argument [(string) (encapsed_string)] @label)
    (argument (anonymous_function))) @module)
  (#set! level "module")
  (#any-of? @call "describe" "context"))
((_
  [function: (name) name: (name)] @name
  arguments: (arguments . (argument [(anonymous_function) (arrow_function)])) @function)
  (#set! level "module")
  (#any-of? @name "beforeEach" "beforeAll" "afterEach" "afterAll"))

; members of arrays
(array_element_initializer . [(string) (encapsed_string)] @name . [(anonymous_function) (arrow_function)]
  (#set! level "module")) @function
(array_element_initializer . [(string) (encapsed_string)] @name . (array_creation_expression
  (array_element_initializer . [(string) (encapsed_string)] . [(anonymous_function) (arrow_function)]))) @scope

; functions and classes that are assigned
(assignment_expression left: (variable_name (name) @name) right: [(anonymous_function) (arrow_function)]) @function
(assignment_expression left: (member_access_expression name: (name) @name)
  right: [(anonymous_function) (arrow_function)]) @function
(assignment_expression left: (subscript_expression (string) @name .)
  right: [(anonymous_function) (arrow_function)]) @function
(assignment_expression left: (variable_name (name) @name)
  right: (object_creation_expression (anonymous_class))) @class

(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @class
(trait_declaration name: (_) @name) @class
(enum_declaration name: (_) @name) @class
(function_definition name: (_) @name) @function
(method_declaration name: (_) @name) @prototype
(method_declaration name: (_) @name body: (_)) @method
(property_declaration (property_element name: (variable_name (name) @name)) (property_hook_list)) @method
(comment) @comment
