(** Points and trees. *)

open Core

(** A point. *)
type point = { x : int; (** its x *) y : int }

type 'a tree =
  | Leaf
  | Node of 'a tree * 'a (** a node *)

and forest = int list

exception Bad of string

let limit = 3

(** Adds
    two numbers. *)
let add x y =
  let swap a b = (b, a) in
  ignore (swap x y);
  x + y

let rec even n = n = 0 || odd (n - 1)

(* The other half. *)
and odd n = n <> 0 && even (n - 1)

let inc : int -> int = fun x -> x + 1

let depth = function
  | Leaf -> 0
  | Node _ -> 1

let memo =
  let cache = Hashtbl.create 7 in
  fun key -> Hashtbl.find cache key

let ( <+> ) a b = add a b

let () = print_endline "run"

external now : unit -> int = "caml_now"

module type Shown = sig
  type t

  (** Shows it. *)
  val show : t -> string
  val hide : t -> string
end

(* Of any element. *)
module Make (X : Shown) : Shown = struct
  type t = X.t

  let show t = X.show t
end

module M = Make (Int)

module Counter : sig
  val next : unit -> int
end = struct
  let next () = 1
end

include struct
  let included () = 2
end

class counter start = object (self)
  val mutable count = start

  (** Counts. *)
  method next =
    count <- count + 1;
    self#get

  method private get = count
end

class type counted = object
  method get : int
end

let%test "adds" = add 1 2 = 3

let () =
  Alcotest.run "points" [ ("add", [ Alcotest.test_case "adds zero" `Quick (fun () -> check (add 0 1)) ]) ]

#ifdef FAST
let fast () = 1
#else
let slow () = 2
#endif
