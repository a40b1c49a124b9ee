; inherits: python

; targets of BUILD files: `cc_library(name = "total", …)`
(module (expression_statement
  (call arguments: (argument_list (keyword_argument name: (identifier) @_key value: (string) @name))) @function
  (#eq? @_key "name")))
(module (expression_statement (list_comprehension
  (call arguments: (argument_list (keyword_argument name: (identifier) @_key value: (string) @name))) @function
  (#eq? @_key "name"))))
