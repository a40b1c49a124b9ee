#!/usr/bin/env pwsh
#Requires -Version 7

using namespace System.IO

# Where orders are.
$OrderPath = 'orders.csv'

<#
.SYNOPSIS
Gets orders.
#>
function Get-Order {
    [CmdletBinding()]
    param(
        [string]$Name = "all"
    )
    process {
        Import-Csv $OrderPath | Where-Object { $_.Name -eq $Name }
    }
}

function Set-Order($Order) {
    <#
    .SYNOPSIS
    Saves an order.
    #>
    $Order | Export-Csv $OrderPath
}

#region helpers
filter Select-Paid { if ($_.Paid) { $_ } }
function global:prompt { "PS> " }
#endregion

# A cart.
class Cart : Base {
    [int]$Total

    Cart([int]$total) : base() {
        $this.Total = $total
    }

    # Adds a price.
    [void] Add([int]$price) {
        $this.Total += $price
    }

    static [Cart] Empty() { return [Cart]::new(0) }
}

enum Color {
    Red
    Blue
}

Describe "Cart" {
    BeforeAll {
        $cart = [Cart]::Empty()
    }

    It 'adds a price' {
        $cart.Add(2)
        $cart.Total | Should -Be 2
    }
}

task Build -Depends Clean {
    exec { dotnet build }
}
