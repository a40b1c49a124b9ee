(method name: (_) @name) @function
(singleton_method name: (_) @name) @function
(class name: (_) @qualified) @class
(module name: (_) @qualified) @class
(comment) @comment
