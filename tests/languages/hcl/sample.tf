terraform {
  required_version = ">= 1.5"
}

provider "aws" {
  region = var.region
}

# Where it runs.
# A region of AWS.
variable "region" {
  type    = string
  default = "eu-west-1"

  validation {
    condition = length(var.region) > 3
  }
}

locals {
  # Not a block.
  name = "shop-${var.region}"
}

data "aws_ami" "base" {
  most_recent = true
}

/* The server. */
resource "aws_instance" "web" {
  for_each = { a = 1, b = 2 }
  ami      = data.aws_ami.base.id

  dynamic "ebs_block_device" {
    for_each = var.disks
    content {
      size = each.value
    }
  }

  user_data = <<-EOT
    #!/bin/sh
    resource "x" {
  EOT
}

module "vpc" {
  source = "./modules/vpc"
}

// The address.
output "ip" { value = aws_instance.web["a"].public_ip }

source "amazon-ebs" "image" {}

moved {
  from = aws_instance.old
  to   = aws_instance.web
}
