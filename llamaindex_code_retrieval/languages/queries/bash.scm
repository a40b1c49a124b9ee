(function_definition name: (_) @name) @function

; tests of Bats, whose bodies are commands beside them for the grammar
((command name: (command_name) @call . argument: (_) @label . argument: (word) @_brace) @function
  (#set! through "}") (#eq? @call "@test") (#eq? @_brace "{"))

(comment) @comment
