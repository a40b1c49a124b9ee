// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {ERC20} from "./ERC20.sol";

/// @title A token.
/// @notice Sells.
abstract contract Token is ERC20, Ownable(msg.sender) {
    using SafeMath for uint256;

    struct Position {
        uint256 amount;
    }

    enum State { Open, Closed }

    /// Sold to `to`.
    event Sold(address indexed to, uint256 amount);
    error TooLow(uint256 amount);
    type Price is uint128;

    mapping(address => uint256) public balances;

    modifier onlyOpen() {
        require(state == State.Open);
        _;
    }

    modifier guarded() virtual;

    constructor(string memory name) ERC20(name) {
        open();
    }

    /**
     * @dev Sells.
     * @param amount how many
     */
    function sell(uint256 amount) public payable virtual override onlyOpen returns (uint256) {
        assembly {
            function half(x) -> y { y := div(x, 2) }
        }
        return amount;
    }

    function sell(address to) external virtual;

    function price() external view virtual returns (uint256);

    receive() external payable {}

    fallback() external {}
}

interface IToken {
    /// The owner.
    function owner() external view returns (address);
}

library Math {
    function max(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }
}

function free(uint256 a) pure returns (uint256) {
    return a;
}

error Closed();

uint256 constant RATE = 2;
