; inherits: c

(class_specifier name: (_) @name body: (_)) @class
(template_declaration (_) @inner) @outer
